-- Every order that ever landed is in fct_sales, and no other.
-- severity: error
WITH landed AS (
    SELECT DISTINCT id AS order_id
    FROM staging.stg_shopify__orders
    WHERE id IS NOT NULL
)

SELECT
    coalesce(landed.order_id, sales.order_id) AS order_id,
    CASE WHEN sales.order_id IS NULL THEN 'lost' ELSE 'never landed' END AS what
FROM landed
FULL JOIN main.fct_sales AS sales ON landed.order_id = sales.order_id
WHERE landed.order_id IS NULL OR sales.order_id IS NULL
